-- Who has left a bank takes nothing out of it: an `update` that reads no column could move his recordings into a bank
-- that he still belongs to, although he no longer sees them. As with deleting, only where this is our own policy.

do $$
begin
    if exists (
        select
        from pg_catalog.pg_policy
        where polrelid = 'public.recordings'::regclass and polname = 'Owners update their recordings'
    ) then
        alter policy "Owners update their recordings" on public.recordings using (
            owner_user_id = (select auth.uid())
            and bank_id = any (
                array(select m.bank_id from public.bank_memberships as m where m.user_id = (select auth.uid()))
            )
        );
    end if;
end
$$;
