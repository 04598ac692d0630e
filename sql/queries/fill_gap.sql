-- Part of fill_gaps: give a column of the row that is kept the value of the oldest copy that has one.
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
