-- Returns for whom the transaction works so far, in the words of act_as.sql.
select
    pg_catalog.current_setting('role') as role,
    coalesce(pg_catalog.current_setting('request.jwt.claims', true), '') as claims,
    coalesce(pg_catalog.current_setting('request.jwt.claim', true), '') as claim,
    coalesce(pg_catalog.current_setting('request.jwt.claim.sub', true), '') as claim_sub,
    coalesce(pg_catalog.current_setting('request.jwt.claim.role', true), '') as claim_role,
    pg_catalog.current_setting('search_path') as path
