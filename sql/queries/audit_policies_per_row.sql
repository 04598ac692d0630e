-- Returns the policies that call a function without arguments for every row, where `(select …)` would call it once
-- per statement. Which functions a policy calls is known to the catalogue, but for those of PostgreSQL itself.
select
    'warning',
    'policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass,
    'Calls ' || p.names || ' once per row instead of once per statement.',
    case
        when not p.returns_array then
            'alter policy ' || quote_ident(p.polname) || ' on ' || p.polrelid::regclass
            || coalesce(' using (' || regexp_replace(p.using_, p.pattern, '(select \1)', 'g') || ')', '')
            || coalesce(' with check (' || regexp_replace(p.check_, p.pattern, '(select \1)', 'g') || ')', '') || ';'
    end
from (
    select
        y.polname,
        y.polrelid,
        pg_get_expr(y.polqual, y.polrelid) as using_,
        pg_get_expr(y.polwithcheck, y.polrelid) as check_,
        called.names,
        called.pattern,
        called.returns_array
    from pg_catalog.pg_policy as y
    join pg_catalog.pg_class as c on c.oid = y.polrelid
    cross join lateral (
        select
            string_agg(f.call, ', ' order by f.call) as names,
            '(' || string_agg(f.pattern, '|' order by f.call) || ')' as pattern,
            bool_or(f.returns_array) as returns_array  -- `= any ((select …))` would take it for rows
        from (
            select
                quote_ident(n.nspname) || '.' || quote_ident(f.proname) || '()' as call,
                regexp_replace(
                    quote_ident(n.nspname) || '.' || quote_ident(f.proname) || '()', '([^a-zA-Z0-9_])', '\\\1', 'g'
                ) as pattern,
                t.typcategory = 'A' as returns_array
            from pg_catalog.pg_depend as d
            join pg_catalog.pg_proc as f on f.oid = d.refobjid
            join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
            join pg_catalog.pg_type as t on t.oid = f.prorettype
            where d.classid = 'pg_policy'::regclass
                and d.objid = y.oid
                and d.refclassid = 'pg_proc'::regclass
                and f.pronargs = 0
                and f.provolatile <> 'v'
            union
            select 'current_setting(…)', 'current_setting\(''[^'']*''::text(?:, (?:true|false))?\)', false
        ) as f
        -- Called somewhere that is not the beginning of a subquery.
        where regexp_replace(
            concat_ws(' ', pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid)),
            'SELECT (?:\(|NULLIF\(|COALESCE\()*' || f.pattern, '', 'g'
        ) ~ f.pattern
    ) as called
    where c.relnamespace = any (%(schemas)s::oid[]) and called.names is not null
) as p
order by 2
