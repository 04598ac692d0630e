-- Returns the tables under the names of a call library that were here before us: each that we made has a policy of ours,
-- and the schema auth a comment.
select c.oid
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p')
    and (
        (
            n.nspname = 'public'
            and c.relname in (
                'banks', 'bank_memberships', 'vaults', 'vault_memberships', 'recordings', 'vault_entries', 'sync_jobs',
                'import_sources'
            )
            and not exists (
                select
                from pg_catalog.pg_policy as p
                where p.polrelid = c.oid
                    and p.polname in (
                        'Members see their banks', 'Users see their own memberships of banks',
                        'Members see their vaults', 'Users see their own memberships of vaults',
                        'Members see their bank''s recordings', 'Members see their vaults'' entries',
                        'Users see their sync jobs', 'Users see their sources'
                    )
            )
        )
        or (
            n.nspname = 'auth'
            and c.relname = 'users'
            and obj_description(n.oid, 'pg_namespace') is distinct from
                'Users and claims, named and shaped as on Supabase.'
        )
    )
