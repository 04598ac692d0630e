-- The rows of a table that are about the user, each as one JSON object; as the importer in the user's name.
select json_build_object('table', %(table)s::text, 'row', row_to_json(t))::text
from (select {columns} from {table} where {condition}) as t
