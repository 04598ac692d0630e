-- Let rows of any table refer to the recordings that are kept.
update {table} as r
set {column} = pair.kept_id
from unnest(%(copy_ids)s::uuid[], %(kept_ids)s::uuid[]) as pair (copy_id, kept_id)
where r.{column} = pair.copy_id
