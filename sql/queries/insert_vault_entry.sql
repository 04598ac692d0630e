-- Puts one recording into one vault; nothing happens when it is there already.
insert into public.vault_entries (vault_id, recording_id)
values (%(vault_id)s, %(recording_id)s)
on conflict (vault_id, recording_id) do nothing
