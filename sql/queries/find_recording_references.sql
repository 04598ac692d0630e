-- Returns every column that refers to a recording by a foreign key, and how many columns that key has.
select c.conrelid::regclass::text, n.nspname, t.relname, a.attname, cardinality(c.conkey)
from pg_catalog.pg_constraint as c
join pg_catalog.pg_class as t on t.oid = c.conrelid
join pg_catalog.pg_namespace as n on n.oid = t.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
where c.contype = 'f'
    and c.confrelid = 'public.recordings'::regclass
    and c.conparentid = 0
order by 1, 4
