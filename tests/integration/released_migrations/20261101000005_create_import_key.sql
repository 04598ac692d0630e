-- Exactly once is a property of the database: one row per owner, source and identity in that source. Rows without an
-- external_id, as made by hand or by other software, never conflict.

do $$
begin
    -- Nobody may add a duplicate between the question and the index. (Here and not at the top: a tool that sends the
    -- statements one by one has no transaction block to lock in.)
    lock table public.recordings in share mode;
    if exists (
        select
        from public.recordings
        where owner_user_id is not null and source_app is not null and source_metadata ->> 'external_id' is not null
        group by owner_user_id, source_app, source_metadata ->> 'external_id'
        having count(*) > 1
    ) then
        raise exception 'Some rows of public.recordings are the same recording.'
            using errcode = 'unique_violation',
                constraint = 'recordings_import_key',
                hint = '`import-pipeline duplicates` shows them and merges each group into its oldest row.';
    end if;
end
$$;

create unique index recordings_import_key
    on public.recordings (owner_user_id, source_app, (source_metadata ->> 'external_id'));
comment on index public.recordings_import_key is
    'The guarantee of import_pipeline that no call is imported twice. Look up with = any (…) on the same expression.';
