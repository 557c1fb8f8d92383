SELECT 'back';
