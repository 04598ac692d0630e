-- Gives the entry that stays of each vault what only its copies know: tags, notes, folder and scores.
with mapped as (
    select copy_id, kept_id
    from unnest(%(copy_ids)s::uuid[], %(kept_ids)s::uuid[]) as pair (copy_id, kept_id)
),
entries as (
    select
        e.*,
        coalesce(m.kept_id, e.recording_id) as kept_id,
        row_number() over (
            partition by e.vault_id, coalesce(m.kept_id, e.recording_id)
            order by m.kept_id is not null, e.created_at, e.id
        ) as position
    from public.vault_entries as e
    left join mapped as m on m.copy_id = e.recording_id
    where e.recording_id = any (%(copy_ids)s::uuid[] || %(kept_ids)s::uuid[])
),
folded as (
    select
        vault_id,
        kept_id,
        (array_agg(folder_id order by position) filter (where folder_id is not null))[1] as folder_id,
        (array_agg(scores order by position) filter (where scores is not null))[1] as scores,
        (select array_agg(distinct tag) from entries as o cross join unnest(o.local_tags) as tag
            where o.vault_id = e.vault_id and o.kept_id = e.kept_id) as local_tags,
        (select string_agg(n.notes, E'\n\n' order by n.position) from (
            select o.notes, min(o.position) as position from entries as o
            where o.vault_id = e.vault_id and o.kept_id = e.kept_id and o.notes <> '' group by o.notes
        ) as n) as notes
    from entries as e
    group by vault_id, kept_id
    having count(*) > 1
)
update public.vault_entries as stays
set folder_id = f.folder_id,
    scores = f.scores,
    local_tags = coalesce(f.local_tags, stays.local_tags),
    notes = coalesce(f.notes, stays.notes),
    updated_at = now()
from entries as e
join folded as f on f.vault_id = e.vault_id and f.kept_id = e.kept_id
where e.position = 1 and stays.id = e.id
