-- Returns the functions with their owner's rights whose names are looked up where others may put something. Empty is
-- the only path that nobody can write to. The schema of temporary objects is searched first, for types and tables,
-- unless it is named: of our own functions it is asked that they name it last.
select
    case when path.setting is null then 'danger' else 'warning' end,
    'function ' || f.oid::regprocedure,
    case
        when path.setting is null then
            'Runs with the rights of its owner, and looks names up in the search_path of whoever calls it.'
        when path.named is not null then
            'Runs with the rights of its owner, and looks names up in ' || path.named
            || ': whoever may create something there can steer it.'
        else
            'Runs with the rights of its owner, and looks types up among the caller''s temporary ones first.'
    end,
    'alter function ' || f.oid::regprocedure || ' set search_path = '''', pg_temp;'
        || case when path.setting is null or path.named is not null then '  -- spell out every name first' else '' end
from pg_catalog.pg_proc as f
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
cross join lateral (
    select
        min(c.setting) as setting,
        string_agg(btrim(entry, ' "'), ', ') filter (
            where btrim(entry, ' "') not in ('', 'pg_catalog', 'pg_temp')
        ) as named,
        bool_or(c.setting ~ ',\s*pg_temp\s*$') as has_temporary_last
    from unnest(f.proconfig) as config (entry_)
    cross join lateral (select substr(config.entry_, length('search_path=') + 1) as setting) as c
    cross join lateral string_to_table(c.setting, ',') as entry
    where config.entry_ like 'search\_path=%%'
) as path
where f.prosecdef
    and f.pronamespace = any (%(schemas)s::oid[])
    and (
        path.setting is null
        or path.named is not null
        or (
            not path.has_temporary_last
            and (n.nspname = 'import_pipeline' or f.oid = to_regprocedure('public.get_import_counts(uuid)'))
        )
    )
    and not exists (
        select
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e'
    )
order by 1, 2
