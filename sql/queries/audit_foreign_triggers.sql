-- Returns the rules on tables that the importer writes, the triggers on tables of import_pipeline's, and the event triggers
-- of others than who migrated: their code runs in the importer's sessions, with the importer's rights. And whether roles of
-- an API may create triggers there, or do what else no policy binds. Of triggers with code of strangers it is asked by
-- `find_planted_triggers`, whose findings come before these.
with written as (
    select c.oid, c.relowner, n.nspname = 'import_pipeline' or c.relname = 'import_items' as is_ours
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p')
        and (
            n.nspname = 'import_pipeline'
            or n.nspname || '.' || c.relname = any (%(tables)s)
        )
)
select
    'danger' as severity,
    'trigger ' || quote_ident(t.tgname) || ' on ' || w.oid::regclass as object,
    'Is not of import_pipeline, whose table this is: it runs ' || t.tgfoid::regprocedure || '.' as problem,
    'drop trigger ' || quote_ident(t.tgname) || ' on ' || w.oid::regclass || ';' as remedy
from written as w
join pg_catalog.pg_trigger as t on t.tgrelid = w.oid and not t.tgisinternal
where w.is_ours
union all
select
    'danger',
    'rule ' || quote_ident(y.rulename) || ' on ' || w.oid::regclass,
    'Puts other statements in the place of the importer''s.',
    'drop rule ' || quote_ident(y.rulename) || ' on ' || w.oid::regclass || ';'
from written as w
join pg_catalog.pg_rewrite as y on y.ev_class = w.oid
union all
select
    'warning',
    'event trigger ' || quote_ident(e.evtname),
    'Runs ' || f.oid::regprocedure || ' of ' || r.rolname || ', who is no superuser, when somebody migrates.',
    'drop event trigger ' || quote_ident(e.evtname) || ';'
from pg_catalog.pg_event_trigger as e
join pg_catalog.pg_proc as f on f.oid = e.evtfoid
join pg_catalog.pg_roles as r on r.oid = f.proowner
where not r.rolsuper
    and r.oid is distinct from (
        select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'import_pipeline'
    )
union all
select
    'danger',
    'table ' || given.oid::regclass,
    given.grantees || ' may ' || given.privileges || ' here, which no policy binds: code of theirs then runs where the '
        || 'importer writes.',
    'revoke ' || given.privileges || ' on ' || given.oid::regclass || ' from ' || given.grantees || ';'
from (
    select
        w.oid,
        string_agg(distinct coalesce(r.rolname::text, 'public'), ', ') as grantees,
        string_agg(distinct lower(acl.privilege_type), ', ') as privileges
    from written as w
    join pg_catalog.pg_class as c on c.oid = w.oid
    cross join lateral aclexplode(c.relacl) as acl
    left join pg_catalog.pg_roles as r on r.oid = acl.grantee
    where acl.privilege_type in ('TRIGGER', 'REFERENCES', 'TRUNCATE')
        and (acl.grantee = 0 or r.rolname in ('anon', 'authenticated'))
    group by w.oid
) as given
order by 1, 2, 3
