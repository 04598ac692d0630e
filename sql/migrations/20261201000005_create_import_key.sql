-- Exactly once is a property of the database: of what import_pipeline imports there is one row per owner, source and
-- identity in that source, whatever bank it lies in and however many import at the same time.
--
-- Users may copy a call of theirs into another bank, with all that is in it but the id. So the id is what tells imports
-- from copies: those that we give end in the same four bytes (and call themselves version 8, "custom"), which an id of
-- anybody else does once in four thousand million times. Every other row has null in the last column of the index, and
-- null never conflicts: not with copies, not with what other software imported before us. What is there already is
-- found by the first three columns, in the statement that inserts.

create unique index recordings_import_key
    on public.recordings (
        owner_user_id, source_app, (source_metadata ->> 'external_id'),
        (case when substr(uuid_send(id), 13) = '\x696d7074'::bytea then true end)
    );
comment on index public.recordings_import_key is
    'The guarantee of import_pipeline that no call is imported twice. Look up with = any (…) on its expression.';
