-- Which files of the drop folder were asked for and worked through: what the sensor of the folder goes by.

create table import_pipeline.dropped_files (
    account_id uuid not null,
    version uuid not null,
    request text not null,
    is_settled boolean not null default false,
    constraint dropped_files_pkey primary key (account_id, version),
    constraint dropped_files_account_id_fkey
        foreign key (account_id) references public.import_sources (id) on delete cascade
);
alter table import_pipeline.dropped_files enable row level security;
comment on table import_pipeline.dropped_files is 'Files in the drop folder that need no run, or have one already.';
comment on column import_pipeline.dropped_files.version is
    'Computed from path, size and time of the last change: a file that changes or moves is another one.';
comment on column import_pipeline.dropped_files.request is 'The run key under which the file was asked for.';
comment on column import_pipeline.dropped_files.is_settled is 'Whether that run was worked to its end.';

revoke all on import_pipeline.dropped_files from public, anon, authenticated;
grant select, insert, update, delete on import_pipeline.dropped_files to import_worker;
create policy "Import worker keeps dropped files" on import_pipeline.dropped_files
    for all to import_worker using (true) with check (true);
