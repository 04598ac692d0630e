-- Returns what import_worker may do beyond what it needs, whether granted to it or to everybody, and what it may not do
-- though it needs it. That everybody may create temporary tables is not among it: those are seen by their session alone,
-- and our statements never look there. So nobody's temporary schemas are looked at.
with worker as (
    select oid from pg_catalog.pg_roles where rolname = 'import_worker'
),
needed (object, privileges) as (
    values
        ('public.recordings', '{select,insert}'::text[]),
        ('public.vault_entries', '{select,insert}'),
        ('public.banks', '{select}'),
        ('public.bank_memberships', '{select}'),
        ('public.vaults', '{select}'),
        ('public.import_sources', '{select,insert,update,delete}'),
        ('public.sync_jobs', '{select,insert,update}'),
        ('public.import_items', '{select,insert,update}'),
        ('import_pipeline.credentials', '{select,insert,update,delete}'),
        ('import_pipeline.leases', '{select,insert,update,delete}'),
        ('import_pipeline.rate_budgets', '{select,insert,update,delete}'),
        ('import_pipeline.polls', '{select,insert,update,delete}'),
        ('import_pipeline.dropped_files', '{select,insert,update,delete}'),
        ('import_pipeline.shared_folders', '{select,insert}')
),
lacking as (
    select 'table ' || c.oid::regclass as object, p.name as privilege
    from worker
    cross join needed
    join pg_catalog.pg_namespace as n on n.nspname = split_part(needed.object, '.', 1)
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = split_part(needed.object, '.', 2)
    cross join unnest(needed.privileges) as p (name)
    where not has_table_privilege(worker.oid, c.oid, p.name)
    union all
    select 'schema ' || n.nspname, 'usage'
    from worker
    cross join pg_catalog.pg_namespace as n
    where n.nspname in ('public', 'import_pipeline') and not has_schema_privilege(worker.oid, n.oid, 'usage')
),
had as (
    -- Tables and views, as a whole or by columns.
    select
        'table ' || c.oid::regclass as object,
        p.name as privilege,
        has_table_privilege('public', c.oid, p.name) as by_all
    from worker
    cross join pg_catalog.pg_class as c
    cross join unnest('{select,insert,update,delete,truncate,references,trigger}'::text[]) as p (name)
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    left join needed on needed.object = n.nspname || '.' || c.relname
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
        and n.nspname !~ '^(pg_|information_schema$)'
        and not p.name = any (coalesce(needed.privileges, '{}'))
        and case
            when p.name in ('select', 'insert', 'update', 'references')
                then has_any_column_privilege(worker.oid, c.oid, p.name)
            else has_table_privilege(worker.oid, c.oid, p.name)
        end
        and not exists (
            select
            from pg_catalog.pg_depend as d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        )
    union all
    select 'sequence ' || c.oid::regclass, p.name, has_sequence_privilege('public', c.oid, p.name)
    from worker
    cross join pg_catalog.pg_class as c
    cross join unnest('{usage,select,update}'::text[]) as p (name)
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname !~ '^pg_'
    where c.relkind = 'S' and has_sequence_privilege(worker.oid, c.oid, p.name)
    union all
    select 'schema ' || quote_ident(n.nspname), 'create', has_schema_privilege('public', n.oid, 'create')
    from worker
    cross join pg_catalog.pg_namespace as n
    where n.nspname !~ '^pg_' and has_schema_privilege(worker.oid, n.oid, 'create')
    union all
    select 'database ' || quote_ident(d.datname), 'create', has_database_privilege('public', d.oid, 'create')
    from worker
    cross join pg_catalog.pg_database as d
    where d.datname = current_database() and has_database_privilege(worker.oid, d.oid, 'create')
    union all
    -- What everybody may execute is no right of the importer's own.
    select 'function ' || f.oid::regprocedure, 'execute', false
    from worker
    cross join pg_catalog.pg_proc as f
    join pg_catalog.pg_namespace as n on n.oid = f.pronamespace and n.nspname !~ '^pg_'
    cross join lateral aclexplode(f.proacl) as a
    where a.grantee = worker.oid
        and f.pronamespace <> to_regnamespace('import_pipeline')
        and f.oid is distinct from to_regprocedure('public.get_import_counts(uuid)')
    union all
    select 'table ' || c.oid::regclass, 'grant option for ' || lower(a.privilege_type), false
    from worker
    cross join pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace and n.nspname !~ '^pg_'
    cross join lateral aclexplode(c.relacl) as a
    where a.grantee = worker.oid and a.is_grantable
)
select
    'danger',
    had.object,
    'import_worker may ' || string_agg(had.privilege, ', ' order by had.privilege) || ' here'
        || case when had.by_all then ', because everybody may' else '' end || '; it needs that for nothing.',
    'revoke ' || string_agg(had.privilege, ', ' order by had.privilege) || ' on ' || had.object || ' from '
        || case when had.by_all then 'public' else 'import_worker' end || ';'
from had
group by had.object, had.by_all
union all
select
    'warning',
    lacking.object,
    'import_worker may not ' || string_agg(lacking.privilege, ', ' order by lacking.privilege)
        || ' here, which it needs.',
    'grant ' || string_agg(lacking.privilege, ', ' order by lacking.privilege) || ' on ' || lacking.object
        || ' to import_worker;'
from lacking
where to_regnamespace('import_pipeline') is not null
group by lacking.object
union all
-- Only a superuser can take it from everybody, so it is told where one keeps the schema.
select
    'warning',
    'function lo_create(oid)',
    'Everybody may store large objects, past every table and policy, and import_worker with them.',
    'revoke execute on function ' || string_agg(f.oid::regprocedure::text, ', ' order by f.proname) || ' from public;'
from worker
cross join pg_catalog.pg_proc as f
where f.pronamespace = 'pg_catalog'::regnamespace
    and f.proname in ('lo_create', 'lo_creat', 'lo_from_bytea', 'lo_put', 'lowrite')
    and has_function_privilege('public', f.oid, 'execute')
    and exists (
        select
        from pg_catalog.pg_namespace as n
        join pg_catalog.pg_roles as o on o.oid = n.nspowner
        where n.nspname = 'import_pipeline' and o.rolsuper
    )
having count(*) > 0
order by 2
