-- count_rows: How many rows of a table are about the user; as the importer in the user's name.
select count(*) from {table} where {condition}

-- delete_deserted_banks: Deletes those of the banks that have neither members nor recordings left.
delete from public.banks as b
where b.id = any(%(bank_ids)s)
    and not exists (select from public.bank_memberships as m where m.bank_id = b.id)
    and not exists (select from public.recordings as r where r.bank_id = b.id)

-- delete_rows: Delete the rows of a table that are about the user; as the owner of the tables.
delete from {table} where {condition}

-- delete_user: Delete a user; as the owner of auth.users.
delete from auth.users where id = %(user_id)s

-- export_rows: The rows of a table that are about the user, each as one JSON object; as the importer in the user's
-- name.
select json_build_object('table', %(table)s::text, 'row', row_to_json(t))::text
from (select {columns} from {table} where {condition}) as t

-- export_user: Returns one user as a line of an export; no row: there is no such user.
select json_build_object('table', 'users', 'row', json_build_object('id', %(user_id)s::uuid, 'email', n.label))::text
from import_pipeline.name_users(array[%(user_id)s::uuid]) as n

-- find_banks_of_user: Returns the banks of which a user is a member.
select bank_id from public.bank_memberships where user_id = %(user_id)s

-- find_hidden_tables: Which of these tables have rows that policies hide from this login.
select name from unnest(%(names)s::text[]) as name where row_security_active(name)

-- find_leases_of_user: Returns the runs that work on accounts of a user, and whether each has given a sign of life
-- lately.
select holder, holder_process, expires_at > clock_timestamp()
from import_pipeline.leases
where account_id in (select id from public.import_sources where user_id = %(user_id)s)
for update

-- find_runs_of_user: Returns the root runs that have worked for a user.
select metadata ->> 'run_id' from public.sync_jobs where user_id = %(user_id)s and metadata ->> 'run_id' is not null
union
select run_id from public.import_items where user_id = %(user_id)s and run_id is not null

-- list_columns: Returns the columns of a table, in their order.
select attname::text
from pg_catalog.pg_attribute
where attrelid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass and attnum > 0 and not attisdropped
order by attnum

-- lock_accounts_of_user: Returns the accounts of a user, and keeps every run from taking one until the end of the
-- transaction.
select id from public.import_sources where user_id = %(user_id)s order by id for update

-- of_accounts: Part: the rows of the accounts of a user.
account_id in (select id from public.import_sources where user_id = %(user_id)s)

-- of_owner: Part: the recordings of a user.
owner_user_id = %(user_id)s

-- of_recordings: Part: the rows of the recordings of a user.
recording_id in (select id from public.recordings where owner_user_id = %(user_id)s)

-- of_user: Part: the rows of a user.
user_id = %(user_id)s
