"""The operations, as users call them: what each promises, and which way its arguments take; one file each."""
