-- Returns the policies by which whoever comes through an API may write every row of a table: a permissive `true`, with
-- the privilege to use it, and no restrictive policy beside it.
select
    case when who.name = 'authenticated' then 'warning' else 'danger' end,
    'policy ' || quote_ident(p.polname) || ' on ' || c.oid::regclass,
    case when who.name = 'authenticated' then 'Everybody who is signed in' else 'Everybody, signed in or not,' end
        || ' may ' || string_agg(command.name, ', ' order by command.name) || ' every row.',
    'drop policy ' || quote_ident(p.polname) || ' on ' || c.oid::regclass || ';'
from pg_catalog.pg_policy as p
join pg_catalog.pg_class as c on c.oid = p.polrelid
cross join (values ('insert', 'a'), ('update', 'w'), ('delete', 'd')) as command (name, letter)
-- Whom the policy speaks of: the weakest of those who have the privilege too.
cross join lateral (
    select r.rolname as name
    from pg_catalog.pg_roles as r
    where r.rolname in ('anon', 'authenticated')
        and (p.polroles = '{0}' or r.oid = any (p.polroles))
        and has_table_privilege(r.oid, c.oid, command.name)
    order by r.rolname
    limit 1
) as who
where c.relrowsecurity
    and p.polpermissive
    and p.polcmd::text in ('*', command.letter)
    and c.relnamespace = any (%(schemas)s::oid[])
    and case command.letter
        -- Without a check of its own the condition for reading is the check.
        when 'a' then coalesce(pg_get_expr(p.polwithcheck, c.oid), pg_get_expr(p.polqual, c.oid)) = 'true'
        else pg_get_expr(p.polqual, c.oid) = 'true'
    end
    and not exists (
        select
        from pg_catalog.pg_policy as strict
        where strict.polrelid = c.oid
            and not strict.polpermissive
            and strict.polcmd::text in ('*', command.letter)
            and (strict.polroles = '{0}' or strict.polroles @> p.polroles)
    )
group by p.polname, c.oid, who.name
order by 1, 2
