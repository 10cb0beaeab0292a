"""Vocabularies: one tokenizer for the output, and every model's embeddings aligned to it.

::

    tokenizer files --reading--> TokenTable --building--> output tokenizer --output_files--> side files
                                     |                          |
    tensor shapes ---axis---> tensors with a row a token --rows--> RowMap --> GatheredSource, read by the methods

Rows are gathered while the merge streams; no permutation matrix and no whole embedding is ever held.
"""
