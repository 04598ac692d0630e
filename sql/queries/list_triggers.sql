-- Returns the triggers on these tables, each with the function that it runs.
select
    pg_catalog.format('trigger %%I on %%I.%%I', t.tgname, s.nspname, c.relname),
    pg_catalog.format('%%I.%%I()', n.nspname, f.proname)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_class as c on c.oid = t.tgrelid
join pg_catalog.pg_namespace as s on s.oid = c.relnamespace
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
where not t.tgisinternal and s.nspname || '.' || c.relname = any (%(tables)s::pg_catalog.text[])
order by 1
