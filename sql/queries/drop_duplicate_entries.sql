-- Deletes of the entries that copies of a recording have in one vault all but the one that stays.
with mapped as (
    select copy_id, kept_id
    from unnest(%(copy_ids)s::uuid[], %(kept_ids)s::uuid[]) as pair (copy_id, kept_id)
),
entries as (
    select
        e.id,
        row_number() over (
            partition by e.vault_id, coalesce(m.kept_id, e.recording_id)
            order by m.kept_id is not null, e.created_at, e.id
        ) as position
    from public.vault_entries as e
    left join mapped as m on m.copy_id = e.recording_id
    where e.recording_id = any (%(copy_ids)s::uuid[] || %(kept_ids)s::uuid[])
)
delete from public.vault_entries
where id in (select id from entries where position > 1)
