-- Which folders of the importing machines other people fill: what lies there is read as theirs by every later command.

create table import_pipeline.shared_folders (
    path text not null,
    is_dropped boolean not null,
    noted_at timestamptz not null default now(),
    constraint shared_folders_pkey primary key (path, is_dropped)
);
alter table import_pipeline.shared_folders enable row level security;
comment on table import_pipeline.shared_folders is
    'Folders that other people fill, also those that no setting names any more: links below them are never followed.';
comment on column import_pipeline.shared_folders.path is 'Absolute, or a file:// address where its bytes are no text.';
comment on column import_pipeline.shared_folders.is_dropped is
    'It was the drop folder, in which each folder belongs to one user; else uploads from the UI were allowed from it.';

revoke all on import_pipeline.shared_folders from public, anon, authenticated;
grant select, insert on import_pipeline.shared_folders to import_worker;
create policy "Import worker remembers shared folders" on import_pipeline.shared_folders
    for all to import_worker using (true) with check (true);
