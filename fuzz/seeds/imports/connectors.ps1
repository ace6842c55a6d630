# Exchange connectors, as a desired state.
Configuration Connectors
{
    param([System.Management.Automation.PSCredential] $Credential)
    Import-DscResource -ModuleName Microsoft365DSC
    Node localhost
    {
        EXOInboundConnector 'Fabrikam'
        {
            Identity                     = "Fabrikam"
            ConnectorType                = "Partner"
            Enabled                      = $True
            SenderDomains                = @("fabrikam.com", "*.fabrikam.net")
            RequireTls                   = $True
            RestrictDomainsToIPAddresses = $True
            SenderIPAddresses            = @(
                '203.0.113.0/24'
                '198.51.100.7'
            )
            Credential                   = $Credential
            Ensure                       = "Present"
        }
        EXOInboundConnector 'Gone'
        {
            Identity = "Gone"
            Ensure   = "Absent"
        }
        EXOOutboundConnector 'To Fabrikam' {
            Identity         = "To Fabrikam"
            ConnectorType    = "Partner"
            Enabled          = $True
            RecipientDomains = @("fabrikam.com")
            UseMXRecord      = $False
            SmartHosts       = @("mx.fabrikam.com")
            TlsSettings      = "DomainValidation"
            TlsDomain        = "*.fabrikam.com"
        }
    }
}
