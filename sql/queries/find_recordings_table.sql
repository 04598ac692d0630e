-- The table recordings, or null where the database has none.
select to_regclass('public.recordings')
