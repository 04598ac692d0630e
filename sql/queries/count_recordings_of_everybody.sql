-- Returns for every user and source how many recordings `get_import_counts` tells, and how many there are when rows are
-- counted plainly, in one statement, so that no import comes between the two. Either is null where it has no such row.
with recursive owners as (
    -- One step of the index per user, because a distinct over all recordings would read all of it.
    (
        select owner_user_id
        from public.recordings
        where owner_user_id is not null
        order by owner_user_id
        limit 1
    )
    union all
    select (
        select recordings.owner_user_id
        from public.recordings
        where recordings.owner_user_id > owners.owner_user_id
        order by recordings.owner_user_id
        limit 1
    )
    from owners
    where owners.owner_user_id is not null
),
told as (
    select owners.owner_user_id, coalesce(counts.source_app, '') as source_app, counts.call_count
    from owners
    cross join lateral public.get_import_counts(owners.owner_user_id) as counts
    where owners.owner_user_id is not null
),
plain as (
    select owner_user_id, coalesce(source_app, '') as source_app, count(*) as call_count
    from public.recordings
    where owner_user_id is not null
    group by 1, 2
)
select owner_user_id as user_id, source_app, told.call_count as told, plain.call_count as plain
from told
full join plain using (owner_user_id, source_app)
