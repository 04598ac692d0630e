-- Fails if there is a planted trigger, since its name is no number: the server passes over what was sent behind this.
select pg_catalog.string_agg(p.object, ', ')::pg_catalog.int4
from (
{planted}
) as p
