-- Returns the database's time, and keeps an account from being removed until the end of the transaction: the time is
-- null if somebody else has locked its row; no row: it is gone.
with held as materialized (
    select id from public.import_sources where id = %(id)s and user_id = %(user_id)s for key share skip locked
)
select case when exists (select from held) then clock_timestamp() end
from public.import_sources
where id = %(id)s and user_id = %(user_id)s
