-- Returns what import_login is or may that the importer's login must not: anything but becoming import_worker.
with login as (
    select * from pg_catalog.pg_roles where rolname = 'import_login'
)
select
    'danger',
    'role import_login',
    'Has the attribute ' || attribute.name || '.',
    'alter role import_login ' || attribute.remedy || ';'
from login
cross join lateral (
    values
        ('superuser', rolsuper, 'nosuperuser'), ('bypassrls', rolbypassrls, 'nobypassrls'),
        ('createrole', rolcreaterole, 'nocreaterole'), ('createdb', rolcreatedb, 'nocreatedb'),
        ('replication', rolreplication, 'noreplication'), ('inherit', rolinherit, 'noinherit')
) as attribute (name, is_set, remedy)
where attribute.is_set
union all
select
    'danger',
    'role import_login',
    case
        when g.rolname = 'import_worker' then 'May make others members of import_worker.'
        else 'Is a member of ' || quote_ident(g.rolname) || ', and may act as it.'
    end,
    case
        when g.rolname = 'import_worker' then 'revoke admin option for import_worker from import_login;'
        else 'revoke ' || quote_ident(g.rolname) || ' from import_login;'
    end
from login
join pg_catalog.pg_auth_members as m on m.member = login.oid
join pg_catalog.pg_roles as g on g.oid = m.roleid
where g.rolname <> 'import_worker' or m.admin_option
union all
select
    'warning',
    'role import_login',
    'May not act as import_worker, so nothing can be imported with it.',
    'grant import_worker to import_login;'
from login
where exists (select from pg_catalog.pg_roles where rolname = 'import_worker')
    and not pg_has_role(login.oid, 'import_worker', 'member')
union all
select
    'danger',
    pg_describe_object(s.classid, s.objid, s.objsubid),
    case s.deptype when 'o' then 'Belongs to import_login, which may own nothing.' else 'Is open to import_login.' end,
    case s.deptype when 'o' then null else 'drop owned by import_login;' end
from login
join pg_catalog.pg_shdepend as s
    on s.refclassid = 'pg_authid'::regclass
    and s.refobjid = login.oid
    and s.deptype in ('o', 'a')
    and s.dbid = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
-- What somebody's session has for as long as it lasts is no matter.
where coalesce((pg_identify_object(s.classid, s.objid, s.objsubid)).schema, '') !~ '^pg_(toast_)?temp'
order by 2, 3
