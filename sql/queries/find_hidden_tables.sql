-- Which of these tables have rows that policies hide from this login.
select name from unnest(%(names)s::text[]) as name where row_security_active(name)
