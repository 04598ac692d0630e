-- Returns whether public.get_import_counts(uuid) is ours, by its comment; one that was there before us is the owner's.
select coalesce(
    obj_description(to_regprocedure('public.get_import_counts(uuid)'), 'pg_proc')
        like 'How many recordings a user has of each source; %',
    false
)
