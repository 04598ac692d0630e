-- An account has one lease for what is new and one for history: the two runs work side by side, and neither waits.

alter table import_pipeline.leases
    drop column wanted_by,
    drop column wanted_by_process,
    drop column wanted_at,
    drop column lent_by,
    drop column lent_by_process,
    drop constraint leases_pkey,
    add constraint leases_pkey primary key (account_id, lane);
