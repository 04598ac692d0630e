-- Returns the process that holds an advisory lock with a key of 64 bits, and its login.
select l.pid, a.usename
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'advisory'
    and l.granted
    and l.objsubid = 1
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
    and (l.classid::pg_catalog.int8 << 32) | l.objid::pg_catalog.int8 = %(key)s
limit 1
