-- Column, whether it is text, whether it is an array: of the columns of recordings that can be written.
select attname, atttypid in ('text'::regtype, 'varchar'::regtype), typcategory = 'A'
from pg_catalog.pg_attribute
join pg_catalog.pg_type as t on t.oid = atttypid
where
    attrelid = 'public.recordings'::regclass
    and attnum > 0
    and not attisdropped
    and attgenerated = ''
    and attidentity = ''
