-- Returns the element types of the id arrays: text on our schema, integer on older installations.
select attname, format_type(atttypid, atttypmod)
from pg_catalog.pg_attribute
where attrelid = 'public.sync_jobs'::regclass and attname in ('recording_ids', 'synced_ids', 'failed_ids')
