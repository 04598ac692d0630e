-- Returns the functions with their owner's rights that everybody or anon may execute. Functions of triggers cannot be
-- called, whatever is granted.
select
    'danger',
    'function ' || f.oid::regprocedure,
    'Runs with the rights of its owner, and '
        || case when has_function_privilege('public', f.oid, 'execute') then 'everybody' else 'anon' end
        || ' may execute it.',
    'revoke execute on function ' || f.oid::regprocedure || ' from '
        || concat_ws(
            ', ', 'public', (select r.rolname from pg_catalog.pg_roles as r where r.rolname = 'anon')
        ) || ';'
from pg_catalog.pg_proc as f
where f.prosecdef
    and f.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
    and f.pronamespace = any (%(schemas)s::oid[])
    and (
        has_function_privilege('public', f.oid, 'execute')
        or exists (
            select
            from pg_catalog.pg_roles as r
            where r.rolname = 'anon' and has_function_privilege(r.oid, f.oid, 'execute')
        )
    )
    and not exists (
        select
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e'
    )
order by 2
