-- Returns the triggers that were there when the database was migrated (null: not written down), and the roles in vaults that
-- the importer does not know.
select import_pipeline.known_triggers(), import_pipeline.unknown_vault_roles()
