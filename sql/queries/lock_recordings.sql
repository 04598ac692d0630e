-- Keep everybody from writing recordings and vault entries; reading goes on.
lock table public.recordings, public.vault_entries in share row exclusive mode
