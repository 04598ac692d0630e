-- Let constraints and triggers that the owner put off until the commit judge now.
set constraints all immediate
