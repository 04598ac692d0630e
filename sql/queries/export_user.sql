-- Returns one user as a line of an export; no row: there is no such user.
select json_build_object('table', 'users', 'row', json_build_object('id', %(user_id)s::uuid, 'email', n.label))::text
from import_pipeline.name_users(array[%(user_id)s::uuid]) as n
