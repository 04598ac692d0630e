-- Addresses are compared as mail servers compare them: without regard to the case of ASCII letters, and of nothing
-- else. What `lower` makes of other characters depends on the database: to some the Kelvin sign is a k, and whoever had
-- it in his address was taken for somebody else.

create or replace function import_pipeline.find_user(p_email text)
returns uuid
language plpgsql
stable security definer
set search_path = '', pg_temp
as $$
begin
    -- In the collation "C" `lower` knows ASCII only, and what is equal is so byte by byte, whatever the column says.
    return (
        select u.id
        from auth.users as u
        where lower(u.email::text collate "C") = lower(p_email collate "C")
    );
exception when cardinality_violation then
    raise exception 'Several users have the e-mail address %.', p_email using errcode = 'cardinality_violation';
end
$$;
comment on function import_pipeline.find_user(text) is
    'The user with this e-mail address in any case of ASCII letters; null: nobody.';

-- Where the table of users is ours, its index compares likewise. Elsewhere it is the owner's, and is left alone.
do $$
begin
    if exists (
        select
        from pg_catalog.pg_class as i
        join pg_catalog.pg_index as x on x.indexrelid = i.oid
        where i.oid = to_regclass('auth.users_email_key')
            and x.indrelid = to_regclass('auth.users')
            and pg_get_indexdef(i.oid) like '%USING btree (lower((email)::text))'
            and obj_description(to_regnamespace('auth'), 'pg_namespace')
                = 'Users and claims, named and shaped as on Supabase.'
            and pg_has_role(current_user, i.relowner, 'usage')
    ) then
        drop index auth.users_email_key;
        create unique index users_email_key on auth.users (lower(email::text collate "C"));
    end if;
end
$$;
