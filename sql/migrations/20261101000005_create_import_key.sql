-- Exactly once is a property of the database. The index that says so was made here; 20261130000011 makes it now.
--
-- Corrected after it was released: its index refused a user's copies of his own calls. Where the earlier text ran, it
-- counts as this one. Its checksums: of the file, and of what the Supabase CLI keeps of it.
-- earlier dddd429bdfbe07619e32f1908f314253e636c94eee2929506441b3c94a40f157
-- earlier 296b44c6cbb584d32ba531e4830ea1d68d3e9b87093b2227cdf0ad6d35a3cb14

select;
