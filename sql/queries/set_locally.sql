-- Change settings of the session until the end of the transaction.
select pg_catalog.set_config(setting.name, setting.value, true)
from unnest(%(names)s::text[], %(values)s::text[]) as setting (name, value)
