-- Returns status and number of the items that one run of one account settled.
select status, count(*)
from public.import_items
where user_id = %(user_id)s and source_app = %(source_app)s and run_id = %(run_id)s
group by status
