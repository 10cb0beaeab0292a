"""Stores of task vectors: planning what they hold, and planning merges from them.

::

    recipe -> Plan --storing--> Plan of a store -> run -> arrays of marks and values, and the document
    recipe -> Plan <-- stand-ins for the models <-- document          --using--> Plan of a merge from a store

A merge from a store is planned as if the models were there: the document says which tensors they have, and what else of
them decides a plan. Only then their tensors are replaced by what the store has of them.
"""
