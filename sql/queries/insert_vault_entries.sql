-- Puts recordings into vaults; nothing happens to those that are there already.
insert into public.vault_entries (vault_id, recording_id)
select vault_id, recording_id from unnest(%(vault_id)b::uuid[], %(recording_id)b::uuid[]) as new (vault_id, recording_id)
on conflict (vault_id, recording_id) do nothing
