-- delete_copies: Delete recordings that nothing refers to any more; as the owner of the tables.
delete from public.recordings where id = any(%(copy_ids)s)

-- drop_duplicate_entries: Deletes of the entries that copies of a recording have in one vault all but the one that
-- stays.
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

-- fill_gap: Part of fill_gaps: give a column of the row that is kept the value of the oldest copy that has one.
{column} = case
    when {kept_knows} then m.{column}
    else coalesce(
        (
            select c.{column}
            from public.recordings as c
            where c.id = any(%(ids)s) and {copy_knows}
            order by c.created_at, c.id
            limit 1
        ),
        m.{column}
    )
end

-- fill_gaps: Give the recording that is kept what only its copies have: assignments from fill_gap.
update public.recordings as m set {} where m.id = %(kept)s

-- find_duplicate_recordings: Returns each call of one source that a user has more than once in a bank, with its rows,
-- oldest first. In another bank it is a copy of his, and no duplicate.
select
    owner_user_id,
    source_app,
    source_metadata ->> 'external_id',
    array_agg(id order by created_at, id),
    array_agg(title order by created_at, id)
from public.recordings
where owner_user_id is not null and source_app is not null and source_metadata ->> 'external_id' is not null
group by 1, 2, 3, bank_id
having count(*) > 1
order by count(*) desc, 1, 2, 3, bank_id

-- find_recording_columns: Column, whether it is text, whether it is an array: of the columns of recordings that can be
-- written.
select attname, atttypid in ('text'::regtype, 'varchar'::regtype), typcategory = 'A'
from pg_catalog.pg_attribute
join pg_catalog.pg_type as t on t.oid = atttypid
where
    attrelid = 'public.recordings'::regclass
    and attnum > 0
    and not attisdropped
    and attgenerated = ''
    and attidentity = ''

-- find_recording_references: Returns every column that refers to a recording by a foreign key, and how many columns
-- that key has.
select c.conrelid::regclass::text, n.nspname, t.relname, a.attname, cardinality(c.conkey)
from pg_catalog.pg_constraint as c
join pg_catalog.pg_class as t on t.oid = c.conrelid
join pg_catalog.pg_namespace as n on n.oid = t.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
where c.contype = 'f'
    and c.confrelid = 'public.recordings'::regclass
    and c.conparentid = 0
order by 1, 4

-- find_recordings_table: The table recordings, or null where the database has none.
select to_regclass('public.recordings')

-- fold_duplicate_entries: Gives the entry that stays of each vault what only its copies know: tags, notes, folder and
-- scores.
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

-- hides_recordings: Whether policies hide recordings from this login.
select row_security_active('public.recordings')

-- lock_recordings: Keep everybody from writing recordings and vault entries; reading goes on.
lock table public.recordings, public.vault_entries in share row exclusive mode

-- move_references: Let rows of any table refer to the recordings that are kept.
update {table} as r
set {column} = pair.kept_id
from unnest(%(copy_ids)s::uuid[], %(kept_ids)s::uuid[]) as pair (copy_id, kept_id)
where r.{column} = pair.copy_id
