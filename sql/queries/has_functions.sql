-- Returns whether this database has the functions that audits ask; it has not before it was migrated to this version.
select count(*) = 2
from pg_catalog.pg_proc as f
join pg_catalog.pg_namespace as n on n.oid = f.pronamespace
where n.nspname = 'import_pipeline' and f.proname in ('known_triggers', 'unknown_vault_roles')
