-- Whether policies hide recordings from this login.
select row_security_active('public.recordings')
