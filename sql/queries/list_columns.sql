-- Returns the columns of a table, in their order.
select attname::text
from pg_catalog.pg_attribute
where attrelid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass and attnum > 0 and not attisdropped
order by attnum
