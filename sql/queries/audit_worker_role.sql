-- Returns what import_worker is that it must not be: more than a role that works for one user at a time.
with worker as (
    select * from pg_catalog.pg_roles where rolname = 'import_worker'
)
select
    'danger',
    'role import_worker',
    'Has the attribute ' || attribute.name || '.',
    'alter role import_worker no' || attribute.name || ';'
from worker
cross join lateral (
    values
        ('superuser', rolsuper), ('bypassrls', rolbypassrls), ('createrole', rolcreaterole),
        ('createdb', rolcreatedb), ('replication', rolreplication)
) as attribute (name, is_set)
where attribute.is_set
union all
select
    'danger',
    'role import_worker',
    'Is a member of ' || quote_ident(g.rolname) || ', and may act as it.',
    'revoke ' || quote_ident(g.rolname) || ' from import_worker;'
from worker
join pg_catalog.pg_auth_members as m on m.member = worker.oid
join pg_catalog.pg_roles as g on g.oid = m.roleid
union all
select
    'danger',
    'role ' || quote_ident(r.rolname),
    'Is a member of import_worker, so whoever comes through the API may work for any user.',
    'revoke import_worker from ' || quote_ident(r.rolname) || ';'
from worker
join pg_catalog.pg_roles as r on r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
where pg_has_role(r.oid, worker.oid, 'member') and not r.rolsuper
union all
select
    'danger',
    case when s.objid is null then 'role import_worker' else pg_describe_object(s.classid, s.objid, s.objsubid) end,
    'Belongs to import_worker, which may own nothing: no policy binds an owner.',
    null
from worker
join pg_catalog.pg_shdepend as s
    on s.refclassid = 'pg_authid'::regclass
    and s.refobjid = worker.oid
    and s.deptype = 'o'
    and s.dbid in (0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database()))
-- What somebody's session has for as long as it lasts is no matter.
where coalesce((pg_identify_object(s.classid, s.objid, s.objsubid)).schema, '') !~ '^pg_(toast_)?temp'
order by 2, 3
