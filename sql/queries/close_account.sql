-- Leaves an account out of runs for everybody; its recordings and its ledger stay.
update public.import_sources set is_active = false, updated_at = now() where id = %(id)s and user_id = %(user_id)s
