"""Running the tasks of a plan, within a memory limit, until every chunk of the output is durable and journalled."""
