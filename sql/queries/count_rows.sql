-- How many rows of a table are about the user; as the importer in the user's name.
select count(*) from {table} where {condition}
