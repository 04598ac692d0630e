-- Deletes those of the banks that have neither members nor recordings left.
delete from public.banks as b
where b.id = any(%(bank_ids)s)
    and not exists (select from public.bank_memberships as m where m.bank_id = b.id)
    and not exists (select from public.recordings as r where r.bank_id = b.id)
